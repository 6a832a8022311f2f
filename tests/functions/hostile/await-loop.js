// ends: cpu
(async () => { for (;;) await null })()
