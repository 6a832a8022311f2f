// ends: answer exception memory
const b = new ArrayBuffer(8, { maxByteLength: 1 << 20 }), u = new Uint8Array(b);
b.resize(0);
respond(200, u)
