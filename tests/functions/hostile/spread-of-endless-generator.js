// ends: memory
[...(function* () { for (;;) yield 1 })()]
