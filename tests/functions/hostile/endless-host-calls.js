// ends: cpu
for (;;) try { fazt.net.fetch('https://a.example/') } catch {}
