// ends: memory exception
const all = [];
for (;;) all.push('x'.repeat(1 << 24) + all.length)
