// ends: memory exception
new Float64Array(2 ** 31 - 1)
