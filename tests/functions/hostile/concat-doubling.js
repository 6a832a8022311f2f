// ends: memory exception
let a = [1];
for (;;) a = a.concat(a)
