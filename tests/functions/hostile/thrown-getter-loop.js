// ends: cpu
throw Object.defineProperty(new Error(), "message", { get() { for (;;) {} } })
