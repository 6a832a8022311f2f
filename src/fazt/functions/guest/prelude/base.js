'use strict';
// What the prelude needs of the language, taken before any app runs. An app may replace every global and prototype of
// its realm; after this part the prelude uses no method of a prototype, no iterator, and no property set that could
// meet a setter. (An app can only confuse itself: the host trusts nothing that comes out of here. But a response that
// was given must come out as it was given.)
const bind = Function.prototype.bind;
const uncurry = bind.bind(Function.prototype.call); // uncurry(f)(self, ...args) = f.call(self, ...args)

const { parse: parseJson, stringify: stringifyJson } = JSON;
const { isArray } = Array;
const { defineProperty, getPrototypeOf, hasOwn, keys: keysOf, setPrototypeOf } = Object;
const get = Reflect.get;
const { isInteger } = Number;
const { fromCharCode } = String;
const now = performance.now.bind(performance);
const toText = String;
const ErrorOf = Error;
const TypeErrorOf = TypeError;
const RangeErrorOf = RangeError;
const ProxyOf = Proxy;
const Bytes = Uint8Array;
const objectPrototype = Object.prototype;
const rangePrototype = RangeError.prototype;
const internalPrototype = InternalError.prototype;
const indexOf = uncurry(String.prototype.indexOf);
const lastIndexOf = uncurry(String.prototype.lastIndexOf);
const slice = uncurry(String.prototype.slice);
const lower = uncurry(String.prototype.toLowerCase);
const codeAt = uncurry(String.prototype.charCodeAt);
const wellFormed = uncurry(String.prototype.toWellFormed);
const hex = uncurry(Number.prototype.toString);
const fromBase64 = atob;

const FIELDS = 128; // header fields of a message, in both directions; the host keeps the same limit

const brands = new WeakMap();
const brandOf = uncurry(WeakMap.prototype.get).bind(undefined, brands);
const brand = uncurry(WeakMap.prototype.set).bind(undefined, brands);

// Define an own property whatever the prototypes say.
function put(target, key, value, enumerable = true) {
  defineProperty(target, key, { __proto__: null, value, enumerable, writable: true, configurable: true });
}

function push(list, value) {
  put(list, list.length, value);
}

function own(target, key) {
  return hasOwn(target, key) ? target[key] : undefined;
}

// JSON of a primitive string: unlike for objects, no toJSON is looked up.
function quote(text) {
  return stringifyJson(wellFormed(text));
}

// String(value) of something that may be hostile.
function textOf(value) {
  try {
    return toText(value);
  } catch {
    return '[unprintable]';
  }
}

function readSafely(target, key) {
  try {
    return target[key];
  } catch {
    return undefined;
  }
}

function isObject(value) {
  return (typeof value === 'object' && value !== null) || typeof value === 'function';
}

function isPlain(value) {
  if (typeof value !== 'object' || value === null || isArray(value)) return false;
  const prototype = getPrototypeOf(value);
  return prototype === null || prototype === objectPrototype;
}

// RFC 9110 section 5.6.2
function isToken(text) {
  for (let i = 0; i < text.length; i++) {
    const c = codeAt(text, i);
    const fine = (c >= 97 && c <= 122) || (c >= 65 && c <= 90) || (c >= 48 && c <= 57);
    if (!fine && (c < 33 || c > 126 || indexOf('"(),/:;<=>?@[\\]{}', fromCharCode(c)) >= 0)) return false;
  }
  return text.length > 0;
}

// RFC 9110 section 5.5, and nothing above latin-1: tab, visible characters, space
function isFieldValue(text) {
  for (let i = 0; i < text.length; i++) {
    const c = codeAt(text, i);
    if ((c < 32 && c !== 9) || c === 127 || c > 255) return false;
  }
  return true;
}

const insensitive = {
  __proto__: null,
  get(target, key, receiver) {
    if (typeof key === 'string') {
      const name = lower(key);
      if (hasOwn(target, name)) return target[name];
    }
    return get(target, key, receiver);
  },
  has(target, key) {
    return (typeof key === 'string' && hasOwn(target, lower(key))) || key in target;
  },
};

// From [[name, value], …] to two objects: the first value of each name, and the list of all its values. They are made
// without a prototype, where no name is special and no setter is met, and get one at the end.
function foldFields(pairs, fold) {
  const first = { __proto__: null };
  const all = { __proto__: null };
  for (let i = 0; i < pairs.length; i++) {
    const name = fold ? lower(pairs[i][0]) : pairs[i][0];
    const value = pairs[i][1];
    if (name in all) {
      push(all[name], value);
    } else {
      first[name] = value;
      all[name] = [value];
    }
  }
  return [setPrototypeOf(first, objectPrototype), setPrototypeOf(all, objectPrototype)];
}
