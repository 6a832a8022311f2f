// ends: stack memory
const o = { toJSON() { return { o } } };
respond(o)
