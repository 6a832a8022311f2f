// ends: cpu stack
function f() { try { f() } catch { f() } finally { f() } }
f()
