// ends: cpu memory
for (;;) try { const a = []; for (;;) a.push(new Array(1000).fill(1)) } catch {}
