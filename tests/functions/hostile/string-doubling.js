// ends: memory exception cpu
let s = 'x';
for (;;) s += s + s.length
