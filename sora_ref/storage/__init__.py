"""Files and folders that are whole or absent, checked when they are read, held by one process at a time; downloads."""
