// ends: exception
throw null
