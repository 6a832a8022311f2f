// ends: memory cpu
eval('1+'.repeat(4e6) + '1')
