// What stands in for guest/shim.c on jsbox: natives for the prelude, and one invocation from begin to result. Evaluated
// with the prelude's function as its argument. Unlike in the shim, nothing here is out of an app's reach for good: the
// end of a handler is an exception that a script can catch, and a promise that nothing settles is found by jsbox.
(async function (makePrelude) {
  const host = __fazt_host;
  const take = __fazt_take;
  delete globalThis.__fazt_host;
  delete globalThis.__fazt_take;
  delete globalThis.console;

  const evaluate = eval; // indirect: in the global scope
  const { isView } = ArrayBuffer;
  const Bytes = Uint8Array;
  const FunctionOf = Function;
  const isPromise = (value) => value instanceof Promise;
  const uncurry = Function.prototype.bind.bind(Function.prototype.call);
  const wellFormed = uncurry(String.prototype.toWellFormed);
  const copyOf = uncurry(Uint8Array.prototype.slice);
  const isError = Error.isError;
  const failedText = '{"error":{"kind":"memory","name":"","message":"out of memory","stack":"","net":null}}';
  let resolveStopped;
  const stopped = new Promise((resolve) => (resolveStopped = resolve));
  let over = false;

  function view(value) {
    if (value instanceof ArrayBuffer) return new Bytes(value);
    return isView(value) ? new Bytes(value.buffer, value.byteOffset, value.byteLength) : undefined;
  }

  function stop() {
    over = true;
    resolveStopped();
    throw { __proto__: null, message: 'the response has been given' };
  }

  const native = {
    call(header, body) {
      if (over) stop();
      const reply = host('call', wellFormed(header), body === undefined ? null : body);
      return [reply[0], reply[1].buffer];
    },
    post(header) {
      host('post', wellFormed(header), null);
    },
    result(header, body) {
      host('result', wellFormed(header), body === undefined ? null : body);
    },
    stop,
    decode(bytes, start, length, fatal) {
      const whole = view(bytes);
      const text = host('decode', fatal ? 'fatal' : '', copyOf(whole, start, start + length));
      if (text === null) throw new TypeError('the encoded data was not valid utf-8');
      return text;
    },
    encode: (text) => host('encode', wellFormed(text), null),
    bytes(value, start = 0, length = undefined) {
      const whole = view(value);
      return whole && copyOf(whole, start, length === undefined ? whole.length : start + length);
    },
    size(value) {
      const whole = view(value);
      return whole ? whole.length : -1;
    },
    fill(array) {
      const whole = view(array);
      const bytes = host('random', '', new Bytes(whole.length));
      for (let i = 0; i < whole.length; i++) whole[i] = bytes[i];
    },
    isError,
  };

  const api = makePrelude(native);
  const before = '(function (exports, require, module, __filename, __dirname) {';
  for (let file = take('file'); file !== null; file = take('file')) {
    if (file[0] === 'json') api.addJson(file[1], file[2]);
    else api.addModule(file[1], evaluate(before + file[2] + '\n})'));
  }
  const [header, body, maxOutput, maxLines, now] = take('request');
  const [source, returns] = take('main');
  const run = returns ? new FunctionOf(source) : () => evaluate(source);

  try {
    try {
      api.begin(header, body.buffer, maxOutput, maxLines, now);
    } catch (error) {
      api.fail(error, 'request');
      return;
    }
    let value;
    try {
      value = run();
      if (isPromise(value)) {
        host('waiting', '', null);
        value = await Promise.race([value, stopped]);
        host('waited', '', null);
      } else {
        for (let i = 0; i < 64 && !over; i++) await null;
      }
    } catch (error) {
      if (!over) {
        api.fail(error, error === null ? 'memory' : ''); // null is what is thrown when there is none for an error
        return;
      }
    }
    try {
      api.finish(value);
    } catch (error) {
      api.fail(error, '');
    }
  } catch {
    host('result', failedText, null);
  }
});
