// ends: stack
const f = () => [1].map(f).sort(f).toString();
f()
