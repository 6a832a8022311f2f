// console.* and fazt.log.*: lines go to the host one by one, so that they are not lost with a killed invocation.
const LINE = 8192; // bytes of a line, and characters that formatting stops at
const TOTAL = 262144; // bytes of an invocation
const DEPTH = 12;
let linesLeft = 0;
let bytesLeft = 0;
let dropped = 0;

// Arguments joined by spaces; no %-formats. Strings stand as they are, objects as JSON.
function formatAll(values) {
  const out = { __proto__: null, text: '' };
  for (let i = 0; i < values.length && out.text.length <= LINE; i++) {
    if (i) out.text += ' ';
    const value = values[i];
    if (typeof value === 'string') out.text += value.length > LINE ? slice(value, 0, LINE + 1) : value;
    else format(out, value, 0, []);
  }
  return out.text;
}

// Append JSON-like text of a value: cycles, getters that throw, and endless structures are survived.
function format(out, value, depth, above) {
  if (out.text.length > LINE) return;
  if (!isObject(value)) {
    if (typeof value === 'string') out.text += quote(value.length > LINE ? slice(value, 0, LINE + 1) : value);
    else if (typeof value === 'bigint') out.text += toText(value) + 'n';
    else out.text += textOf(value);
    return;
  }
  if (typeof value === 'function') {
    const name = readSafely(value, 'name');
    out.text += typeof name === 'string' && name ? '[function ' + slice(name, 0, 80) + ']' : '[function]';
    return;
  }
  if (native.isError(value)) {
    const stack = depth ? undefined : readSafely(value, 'stack');
    out.text += describe(value) + (typeof stack === 'string' && stack ? '\n' + slice(stack, 0, LINE) : '');
    return;
  }
  for (let i = 0; i < above.length; i++) {
    if (above[i] === value) {
      out.text += '"[circular]"';
      return;
    }
  }
  if (depth >= DEPTH) {
    out.text += isArray(value) ? '[…]' : '{…}';
    return;
  }
  try {
    const toJson = value.toJSON;
    if (typeof toJson === 'function') {
      // Date and the like; the result is printed without asking it for its own toJSON
      const plain = uncurry(toJson)(value, '');
      if (!isObject(plain)) return format(out, plain, depth + 1, above);
      value = plain;
    }
  } catch {
    out.text += '"[unprintable]"';
    return;
  }
  push(above, value);
  try {
    if (isArray(value)) formatList(out, value, depth, above);
    else formatFields(out, value, depth, above);
  } catch {
    out.text += '"[unprintable]"';
  }
  above.length -= 1;
}

function formatList(out, list, depth, above) {
  out.text += '[';
  for (let i = 0; i < list.length && out.text.length <= LINE; i++) {
    if (i) out.text += ',';
    const item = list[i];
    if (item === undefined) out.text += 'null';
    else format(out, item, depth + 1, above);
  }
  out.text += ']';
}

function formatFields(out, object, depth, above) {
  const names = keysOf(object);
  let some = false;
  out.text += '{';
  for (let i = 0; i < names.length && out.text.length <= LINE; i++) {
    const value = object[names[i]];
    if (value === undefined) continue;
    if (some) out.text += ',';
    some = true;
    out.text += quote(names[i]) + ':';
    format(out, value, depth + 1, above);
  }
  out.text += '}';
}

// "Name: message" of an error.
function describe(error) {
  const name = textOf(readSafely(error, 'name') ?? 'Error');
  const message = textOf(readSafely(error, 'message') ?? '');
  return slice(message ? name + ': ' + message : name, 0, LINE);
}

// Send a line. `text` is a function of the text, which is not asked for when the line is over the cap.
function emit(level, text) {
  if (linesLeft <= 0 || bytesLeft <= 0) {
    dropped++;
    return;
  }
  linesLeft--;
  let line = text();
  if (line.length > LINE) line = slice(line, 0, LINE - 1) + '…';
  bytesLeft -= line.length;
  native.post('{"op":"log","level":"' + level + '","message":' + quote(line) + '}');
}

function logger(level) {
  return {
    [level](...values) {
      if (answered()) native.stop(); // still running only where the end of the handler was swallowed
      emit(level, () => formatAll(values));
    },
  }[level];
}

const log = { info: logger('info'), warn: logger('warn'), error: logger('error'), debug: logger('debug') };
put(globalThis, 'console', { log: log.info, ...log }, false);
