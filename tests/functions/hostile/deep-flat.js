// ends: stack answer
let a = [];
for (let i = 0; i < 1e5; i++) a = [a];
respond(a.flat(Infinity).length)
