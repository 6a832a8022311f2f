// ends: cpu
respond({ toJSON() { for (;;) {} } })
