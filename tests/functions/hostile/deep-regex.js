// ends: exception stack memory
new RegExp('('.repeat(5e5) + ')'.repeat(5e5))
