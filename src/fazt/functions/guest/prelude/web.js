// The few names of the web platform that handlers use without thinking. URL, URLSearchParams, timers and streams come
// with the modern runtime.
class TextEncoder {
  get encoding() {
    return 'utf-8';
  }

  encode(text = '') {
    return native.encode(toText(text));
  }
}

class TextDecoder {
  #fatal;
  #keepMark;

  constructor(label = 'utf-8', options = undefined) {
    const name = lower(toText(label));
    if (name !== 'utf-8' && name !== 'utf8' && name !== 'unicode-1-1-utf-8') {
      throw new RangeErrorOf("TextDecoder: '" + name + "' is not supported, only utf-8");
    }
    this.#fatal = Boolean(options?.fatal);
    this.#keepMark = Boolean(options?.ignoreBOM);
  }

  get encoding() {
    return 'utf-8';
  }

  get fatal() {
    return this.#fatal;
  }

  get ignoreBOM() {
    return this.#keepMark;
  }

  decode(input = undefined) {
    if (input === undefined) return '';
    const size = native.size(input);
    if (size < 0) throw new TypeErrorOf('TextDecoder: an ArrayBuffer or a typed array is needed');
    const text = native.decode(input, 0, size, this.#fatal);
    return !this.#keepMark && codeAt(text, 0) === 0xfeff ? slice(text, 1) : text;
  }
}

const crypto = {
  getRandomValues(array) {
    const size = native.size(array);
    if (size < 0) throw new TypeErrorOf('crypto.getRandomValues: a typed array is needed');
    if (size > 65536) throw new RangeErrorOf('crypto.getRandomValues: at most 65536 bytes at a time');
    native.fill(array);
    return array;
  },

  randomUUID() {
    const bytes = new Bytes(16);
    native.fill(bytes);
    bytes[6] = (bytes[6] & 15) | 64; // RFC 9562 section 5.4: version 4, variant 10
    bytes[8] = (bytes[8] & 63) | 128;
    let text = '';
    for (let i = 0; i < 16; i++) {
      text += (i === 4 || i === 6 || i === 8 || i === 10 ? '-' : '') + slice(hex(bytes[i] + 256, 16), 1);
    }
    return text;
  },
};

put(globalThis, 'TextEncoder', TextEncoder, false);
put(globalThis, 'TextDecoder', TextDecoder, false);
put(globalThis, 'crypto', crypto, false);
put(globalThis, 'performance', { now, timeOrigin: 0 }, false); // the origin is set for each invocation
