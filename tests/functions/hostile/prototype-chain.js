// ends: memory cpu
let o = {};
for (;;) o = Object.create(o, { x: { value: 1 } })
