// ends: memory cpu
const all = [];
for (;;) all.push(new WeakRef({}))
