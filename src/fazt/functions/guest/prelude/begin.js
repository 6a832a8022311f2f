// Take in the request frame and make the globals that differ from one invocation to the next.
function begin(headText, raw, outputLimit, lineLimit, time) {
  const head = parseJson(headText);
  maxOutput = outputLimit;
  linesLeft = lineLimit;
  bytesLeft = TOTAL;
  dropped = 0;

  const request = head.request;
  const { 0: query, 1: queryAll } = foldFields(request.query, false);
  const { 0: headers, 1: headersAll } = foldFields(request.headers, true);
  const { 0: files, 1: filesAll } = takeFiles(request.files, raw);
  put(globalThis, 'request', {
    method: request.method,
    path: request.path,
    query,
    queryAll,
    headers: new ProxyOf(headers, insensitive),
    headersAll: new ProxyOf(headersAll, insensitive),
    body: takeBody(request.body, raw),
    files,
    filesAll,
  }, false);
  put(globalThis, 'fazt', {
    app: { id: head.app.id, name: head.app.name },
    env: makeEnv(head.env),
    log,
    net: { fetch },
    version: head.version,
  }, false);
  performance.timeOrigin = time;
}

function takeBody(body, raw) {
  switch (body.kind) {
    case 'json':
      return parseJson(native.decode(raw, body.start, body.length, false));
    case 'text':
      return native.decode(raw, body.start, body.length, false);
    case 'bytes':
      return native.bytes(raw, body.start, body.length);
    case 'form':
      return foldFields(body.fields, false)[0];
    default:
      return null;
  }
}

function takeFiles(list, raw) {
  const pairs = [];
  for (let i = 0; i < list.length; i++) {
    const { field, name, type, start, length } = list[i];
    push(pairs, [field, { name, type, size: length, data: native.bytes(raw, start, length) }]);
  }
  return foldFields(pairs, false);
}

function makeEnv(values) {
  return {
    get(name, fallback) {
      return typeof name === 'string' && hasOwn(values, name) ? values[name] : fallback;
    },
    has(name) {
      return typeof name === 'string' && hasOwn(values, name);
    },
  };
}

return { begin, finish, fail, addModule, addJson };
