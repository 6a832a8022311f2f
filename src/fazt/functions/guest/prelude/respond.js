// What an invocation answers: the first respond(), else the completion value of the script.
let response = null; // { head, body }, as it goes out
let tooLarge = false;
let closed = false; // the outcome is being reported
let maxOutput = 0;

function answered() {
  return (response !== null || tooLarge) && !closed;
}

// A body as [kind, string or bytes]. {base64: "…"} is the one way to give bytes as text.
function encodeBody(value) {
  if (value === undefined || value === null) return ['none', undefined];
  if (typeof value === 'string') return ['text', native.encode(value)];
  const bytes = native.bytes(value);
  if (bytes !== undefined) return ['bytes', bytes];
  if (isPlain(value)) {
    const names = keysOf(value);
    if (names.length === 1 && names[0] === 'base64' && typeof value.base64 === 'string') {
      return ['bytes', decodeBase64(value.base64)];
    }
  }
  const text = stringifyJson(value);
  return text === undefined ? ['none', undefined] : ['json', native.encode(text)];
}

function decodeBase64(text) {
  let binary;
  try {
    binary = fromBase64(text);
  } catch {
    throw new TypeErrorOf('respond: the value of base64 is not base64');
  }
  const bytes = new Bytes(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = codeAt(binary, i);
  return bytes;
}

// {status, body, headers} and nothing else, with a numeric status or a body: a response rather than a body.
function isResponse(value) {
  if (!isPlain(value)) return false;
  const names = keysOf(value);
  for (let i = 0; i < names.length; i++) {
    if (names[i] !== 'status' && names[i] !== 'body' && names[i] !== 'headers') return false;
  }
  return hasOwn(value, 'status') ? typeof value.status === 'number' : hasOwn(value, 'body');
}

function encodeHeaders(given) {
  if (given === undefined || given === null) return ['[]', 0];
  if (typeof given !== 'object' || isArray(given)) throw new TypeErrorOf('respond: headers must be an object');
  const names = keysOf(given);
  let text = '';
  let size = 0;
  let count = 0;
  const add = (name, value) => {
    if (value === undefined || value === null) return;
    if (isArray(value)) {
      for (let i = 0; i < value.length; i++) add(name, value[i]); // Set-Cookie and its like
      return;
    }
    if (++count > FIELDS) throw new RangeErrorOf('respond: more than ' + FIELDS + ' headers');
    const shown = toText(value);
    if (!isFieldValue(shown)) throw new TypeErrorOf("respond: the value of header '" + name + "' has bytes no header may have");
    text += (text ? ',[' : '[') + quote(name) + ',' + quote(shown) + ']';
    size += name.length + shown.length;
  };
  for (let i = 0; i < names.length; i++) {
    if (!isToken(names[i])) throw new TypeErrorOf("respond: '" + slice(names[i], 0, 80) + "' is no header name");
    add(names[i], given[names[i]]);
  }
  return ['[' + text + ']', size];
}

function fix(status, body, headers) {
  if (typeof status !== 'number' || !isInteger(status) || status < 100 || status > 599) {
    throw new RangeErrorOf('respond: the status must be an integer from 100 to 599, not ' + slice(textOf(status), 0, 80));
  }
  const { 0: fields, 1: fieldsSize } = encodeHeaders(headers);
  const { 0: kind, 1: bytes } = encodeBody(body);
  if (response !== null || tooLarge) return; // toJSON, a getter or toString called respond() meanwhile
  if ((bytes === undefined ? 0 : native.size(bytes)) + fieldsSize > maxOutput) {
    tooLarge = true;
    return;
  }
  response = { head: '{"status":' + status + ',"headers":' + fields + ',"bodyKind":"' + kind + '"', body: bytes };
}

function respond(...given) {
  if (response !== null || tooLarge || closed) {
    emit('error', () => 'respond() was called again: the first call has answered already');
    if (closed) return;
    native.stop();
  }
  const count = given.length;
  if (count === 0) fix(200);
  else if (count > 1) fix(given[0], given[1], given[2]);
  else if (typeof given[0] === 'number') fix(given[0]);
  else fixValue(given[0]);
  native.stop();
}

// One value that is either a response or a body.
function fixValue(value) {
  if (isResponse(value)) fix(own(value, 'status') ?? 200, own(value, 'body'), own(value, 'headers'));
  else fix(200, value);
}

// The script has ended: say what it answers. `value` counts only if respond() was never called.
function finish(value) {
  closed = true;
  if (response === null && !tooLarge) fixValue(value);
  if (tooLarge) {
    report('output', { name: 'RangeError', message: 'the response is larger than ' + maxOutput + ' bytes', stack: '' }, null);
    return;
  }
  native.result(response.head + ',"logsDropped":' + dropped + '}', response.body);
}

// The script has failed. `how`: "" for something thrown, "pending" for a promise that nothing will settle, "request"
// for a request frame that could not be taken in, "memory" where there was none left for an error.
function fail(error, how) {
  closed = true;
  if (how === 'pending') {
    report('exception', { name: 'Error', message: 'the handler waits for a promise that nothing will settle', stack: '' }, null);
    return;
  }
  const shown = { name: '', message: '', stack: '' };
  if (how === 'memory') {
    shown.message = 'out of memory';
  } else if (native.isError(error)) {
    shown.name = slice(textOf(readSafely(error, 'name') ?? ''), 0, 200);
    shown.message = slice(textOf(readSafely(error, 'message') ?? ''), 0, LINE);
    const stack = readSafely(error, 'stack');
    shown.stack = typeof stack === 'string' ? slice(stack, 0, LINE) : '';
  } else {
    shown.message = 'uncaught: ' + formatAll([error]);
  }
  const kind = kindOf(error, shown.message);
  report(kind === 'exception' && how ? how : kind, shown, netOf(error) ?? null);
}

// The engine's own errors for the two limits that a script can run into without being stopped from outside.
function kindOf(error, message) {
  if (!native.isError(error)) return 'exception';
  let prototype = null;
  try {
    prototype = getPrototypeOf(error);
  } catch {}
  if (prototype === internalPrototype && message === 'out of memory') return 'memory';
  if (prototype === rangePrototype && message === 'Maximum call stack size exceeded') return 'stack';
  return 'exception';
}

function report(kind, shown, net) {
  let text = '{"error":{"kind":"' + kind + '","name":' + quote(shown.name) + ',"message":' + quote(shown.message);
  text += ',"stack":' + quote(shown.stack) + ',"net":';
  if (net === null) {
    text += 'null';
  } else {
    text += '{"code":' + quote(net.code) + ',"reason":' + quote(net.reason) + ',"message":' + quote(net.message);
    text += ',"retryable":' + net.retryable + ',"retryAfter":' + (net.retryAfter ?? 'null');
    text += ',"callId":' + (net.callId === null ? 'null' : quote(net.callId)) + '}';
  }
  native.result(text + '},"logsDropped":' + dropped + '}', undefined);
}

put(globalThis, 'respond', respond, false);
