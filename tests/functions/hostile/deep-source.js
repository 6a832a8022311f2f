// ends: exception stack memory
eval('['.repeat(1e6))
