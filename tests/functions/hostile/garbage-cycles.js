// ends: cpu
for (;;) { const a = {}; a.a = { a } }
