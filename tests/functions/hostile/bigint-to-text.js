// ends: cpu
for (;;) (1n << 1000000n).toString()
