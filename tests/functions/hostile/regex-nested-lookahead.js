// ends: cpu
/(?=(a+))(a*b)*(?:a|a?)+$/.exec('a'.repeat(60) + 'c'.repeat(30))
