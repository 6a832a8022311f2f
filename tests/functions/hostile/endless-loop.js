// ends: cpu
for (;;) {}
