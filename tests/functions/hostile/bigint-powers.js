// ends: cpu
let x = 3n;
const m = 1n << 60000n;
for (;;) x = (x * x + 1n) % m
