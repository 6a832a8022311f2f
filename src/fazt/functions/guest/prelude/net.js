// fazt.net.fetch(): synchronous, one host call. Everything is decided by the host; here options become a frame and a
// reply becomes a response or an error.
const BODY = 10485760; // a larger body is not carried across, only its size: the host refuses it
const OPTIONS = 262144; // characters of URL and headers; far above what the host lets out

// The error of a refused or failed call. Its brand is what tells it from an error that a script made up.
function netError(info) {
  const error = new TypeErrorOf(info.message);
  put(error, 'code', info.code);
  put(error, 'reason', info.reason);
  put(error, 'retryable', info.retryable);
  put(error, 'retryAfter', info.retryAfter);
  put(error, 'callId', info.callId);
  put(error, 'toString', () => info.code + ': ' + info.message, false);
  brand(error, info);
  return error;
}

function netInfo(code, reason, message, callId) {
  return { __proto__: null, code, reason, message, retryable: false, retryAfter: null, callId };
}

// The brand of an error or of what caused it.
function netOf(error) {
  for (let i = 0; i < 16 && isObject(error); i++) {
    const info = brandOf(error);
    if (info) return info;
    error = readSafely(error, 'cause');
  }
  return undefined;
}

// Names of the content codings of a response other than identity, or "".
function codingOf(all) {
  const values = own(all, 'content-encoding');
  let found = '';
  for (let i = 0; values && i < values.length; i++) {
    const value = lower(values[i]);
    if (value !== '' && value !== 'identity') found += (found ? ', ' : '') + value;
  }
  return found;
}

// A response is a private copy: nothing in it is shared with another call.
const unlock = {};
class Response {
  #bytes;
  #coding;
  #callId;

  constructor(key, head, bytes) {
    if (key !== unlock) throw new TypeErrorOf('a response comes from fazt.net.fetch()');
    const { 0: first, 1: all } = foldFields(head.headers, true);
    put(this, 'status', head.status);
    put(this, 'ok', head.status >= 200 && head.status <= 299);
    put(this, 'url', head.url);
    put(this, 'redirected', own(head, 'redirected') === true);
    put(this, 'headers', new ProxyOf(first, insensitive));
    put(this, 'headersAll', new ProxyOf(all, insensitive));
    this.#bytes = bytes;
    this.#coding = codingOf(all);
    this.#callId = own(head, 'callId') ?? null;
  }

  // UTF-8 with replacement, without a byte order mark. A body that is still coded is not text.
  #decode() {
    if (this.#coding) {
      const message = "the response body is coded ('" + this.#coding + "'): only bytes() can be read";
      throw netError(netInfo('NET_ERROR', 'decode', message, this.#callId));
    }
    const text = native.decode(this.#bytes, 0, native.size(this.#bytes), false);
    return codeAt(text, 0) === 0xfeff ? slice(text, 1) : text;
  }

  text() {
    return this.#decode();
  }

  json() {
    return parseJson(this.#decode());
  }

  bytes() {
    return native.bytes(this.#bytes);
  }
}

// Header fields as JSON text: an object of strings (or lists of strings), or pairs. Throws a sentence.
function readHeaders(given) {
  if (given === undefined || given === null) return '[]';
  if (typeof given !== 'object') throw 'headers must be an object of names and values';
  let out = '';
  let count = 0;
  const add = (name, value) => {
    if (value === undefined || value === null) return;
    if (isObject(value) && isArray(value)) {
      for (let i = 0; i < value.length; i++) add(name, value[i]);
      return;
    }
    if (++count > FIELDS) throw 'the request has more than ' + FIELDS + ' header fields';
    if (typeof value === 'symbol' || typeof value === 'function') throw 'a header value must be a string';
    out += (out ? ',[' : '[') + quote(name) + ',' + quote(toText(value)) + ']';
  };
  if (isArray(given)) {
    for (let i = 0; i < given.length; i++) {
      const pair = given[i];
      if (!isArray(pair) || pair.length !== 2 || typeof pair[0] !== 'string') {
        throw 'headers in a list must be pairs of name and value';
      }
      add(pair[0], pair[1]);
    }
  } else {
    const names = keysOf(given);
    for (let i = 0; i < names.length; i++) add(names[i], given[names[i]]);
  }
  return '[' + out + ']';
}

// The frame's fields beside `invalid`, and the body. Throws a sentence (a string) for what can't be read.
function readOptions(url, options) {
  if (typeof url !== 'string') {
    if (!isObject(url)) throw 'the url must be a string';
    url = toText(url);
  }
  if (options === undefined || options === null) options = {};
  if (typeof options !== 'object') throw 'the options must be an object';
  const { method, headers, body, timeout, auth } = options;
  if (method !== undefined && typeof method !== 'string') throw 'method must be a string';
  if (auth !== undefined && auth !== null && typeof auth !== 'string') throw 'auth must be the name of a secret';
  if (timeout !== undefined && timeout !== null && !(typeof timeout === 'number' && timeout > 0 && timeout < 1e12)) {
    throw 'timeout must be a number of milliseconds above 0';
  }
  let bytes;
  if (typeof body === 'string') bytes = native.encode(body);
  else if (body !== undefined && body !== null) {
    bytes = native.bytes(body);
    if (bytes === undefined) throw 'body must be a string, bytes or null';
  }
  const size = bytes === undefined ? 0 : native.size(bytes);
  const fields = readHeaders(headers);
  if (url.length + fields.length + (method?.length ?? 0) + (auth?.length ?? 0) > OPTIONS) throw 'the options are too large';
  const text =
    '"url":' + quote(url) +
    ',"method":' + quote(method ?? 'GET') +
    ',"headers":' + fields +
    ',"timeout":' + (timeout ?? 'null') +
    ',"auth":' + (auth === undefined || auth === null ? 'null' : quote(auth)) +
    ',"hasBody":' + (bytes !== undefined) +
    ',"bodySize":' + size;
  return [text, size > BODY ? undefined : bytes];
}

function fetch(url, options) {
  let text;
  let body;
  let invalid = null;
  try {
    const read = readOptions(url, options);
    text = read[0];
    body = read[1];
  } catch (reason) {
    // A refused call is a call: the host counts and records it.
    invalid = typeof reason === 'string' ? reason : 'the options could not be read: ' + slice(textOf(reason), 0, 200);
    text =
      '"url":' + quote(typeof url === 'string' ? slice(url, 0, OPTIONS) : '') +
      ',"method":"GET","headers":[],"timeout":null,"auth":null,"hasBody":false,"bodySize":0';
  }
  const reply = native.call('{"op":"fetch",' + text + ',"invalid":' + (invalid === null ? 'null' : quote(invalid)) + '}', body);
  const head = parseJson(reply[0]);
  const failure = own(head, 'error');
  if (failure !== undefined) {
    throw netError({
      __proto__: null,
      code: own(failure, 'code') ?? 'NET_ERROR',
      reason: own(failure, 'reason') ?? 'internal',
      message: own(failure, 'message') ?? '',
      retryable: own(failure, 'retryable') === true,
      retryAfter: own(failure, 'retryAfter') ?? null,
      callId: own(failure, 'callId') ?? null,
    });
  }
  if (invalid !== null) throw netError(netInfo('NET_ERROR', 'bad_option', invalid, null));
  return new Response(unlock, own(head, 'ok'), reply[1]);
}
