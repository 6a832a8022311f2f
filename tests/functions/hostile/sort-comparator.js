// ends: cpu
[3, 1, 2].sort(() => { for (;;) {} })
