// require(): files of the app's api/ directory. Every module is compiled into the image; its body runs once for each
// invocation that asks for it, because modules may use `request` and must not share state between invocations.
const compiled = { __proto__: null }; // "lib/x.js" -> function (exports, require, module, __filename, __dirname)
const data = { __proto__: null }; // "lib/x.json" -> JSON text, already checked
const loaded = { __proto__: null }; // "lib/x.js" -> module
const LIBRARIES = { __proto__: null, lodash: 1, cheerio: 1, uuid: 1, zod: 1, marked: 1, dayjs: 1, validator: 1 };

function addModule(path, body) {
  compiled[slice(path, 4)] = body; // without "api/"
}

function addJson(path, text) {
  parseJson(text);
  data[slice(path, 4)] = text;
}

// Resolve dot segments of "dir/name"; undefined when it leaves the app's root.
function normalise(dir, name) {
  const whole = dir && name ? dir + '/' + name : dir || name;
  const parts = [];
  for (let start = 0; start <= whole.length; ) {
    let end = indexOf(whole, '/', start);
    if (end < 0) end = whole.length;
    const part = slice(whole, start, end);
    if (part === '..') {
      if (!parts.length) return undefined;
      parts.length -= 1;
    } else if (part !== '' && part !== '.') {
      push(parts, part);
    }
    start = end + 1;
  }
  let path = '';
  for (let i = 0; i < parts.length; i++) path += (i ? '/' : '') + parts[i];
  return path;
}

function find(path, directoryOnly) {
  const tries = directoryOnly
    ? ['/index.js', '/index.json']
    : ['', '.js', '.json', '/index.js', '/index.json'];
  for (let i = 0; i < tries.length; i++) {
    let file = path + tries[i];
    if (!path) file = slice(file, 1);
    if (file in compiled || file in data) return file;
  }
  return undefined;
}

function missing(message) {
  const error = new ErrorOf(message);
  put(error, 'code', 'MODULE_NOT_FOUND');
  return error;
}

function resolve(dir, name) {
  if (typeof name !== 'string' || !name) throw new TypeErrorOf('require: the module name must be a string');
  if (name[0] === '/' || indexOf(name, '\\') >= 0 || indexOf(name, '\0') >= 0) {
    throw missing("require: '" + name + "' is not a path inside the app; use ./ or ../");
  }
  const relative = name === '.' || name === '..' || slice(name, 0, 2) === './' || slice(name, 0, 3) === '../';
  const path = normalise(relative ? dir : '', name);
  if (path === undefined) throw missing("require: '" + name + "' leaves the app's api/ directory");
  const tail = slice(name, lastIndexOf(name, '/') + 1);
  const file = find(path, path === '' || tail === '' || tail === '.' || tail === '..');
  if (file !== undefined) return file;
  if (path === 'main.js' || path === 'main') {
    throw missing('require: api/main.js is the handler, it can not be required');
  }
  if (!relative && name in LIBRARIES) {
    throw missing("require: fazt ships no '" + name + "'; put a copy under api/ and require it by its path");
  }
  throw missing("require: there is no module '" + name + "' " + (relative ? 'in api/' + dir : 'under api/'));
}

function load(file) {
  if (file in loaded) return loaded[file].exports;
  const dir = slice(file, 0, lastIndexOf(file, '/') < 0 ? 0 : lastIndexOf(file, '/'));
  const module = { id: file, filename: 'api/' + file, loaded: false, exports: {} };
  // before its body runs: a cycle gets the exports made so far
  loaded[file] = module;
  if (file in data) {
    module.exports = parseJson(data[file]);
    module.loaded = true;
    return module.exports;
  }
  let done = false;
  try {
    compiledCall(compiled[file], module.exports, module, dir, file);
    done = true;
  } finally {
    if (!done) delete loaded[file]; // as if it had never been asked for
  }
  module.loaded = true;
  return module.exports;
}

const applyBody = Reflect.apply;
function compiledCall(body, exports, module, dir, file) {
  applyBody(body, exports, [exports, makeRequire(dir), module, 'api/' + file, dir ? 'api/' + dir : 'api']);
}

function makeRequire(dir) {
  return function require(name) {
    return load(resolve(dir, name));
  };
}

put(globalThis, 'require', makeRequire(''), false);
