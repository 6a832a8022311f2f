// ends: output memory
respond('x'.repeat(8 << 20))
