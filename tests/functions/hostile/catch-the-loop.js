// ends: cpu
for (;;) try { for (;;) {} } catch {} finally { for (;;) {} }
