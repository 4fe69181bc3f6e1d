"""The console command ``cxrfeat`` and the command lines of both Spark jobs."""
