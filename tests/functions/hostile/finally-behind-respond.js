// ends: answer
try { respond('first') } finally { for (;;) {} }
