// ends: cpu
(function next() { Promise.resolve().then(next) })()
