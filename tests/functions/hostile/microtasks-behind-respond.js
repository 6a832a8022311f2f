// ends: answer
const spin = () => queueMicrotask(spin);
spin();
respond("first")
