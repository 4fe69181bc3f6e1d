"""Files on local disk and object storage, Arrow schemas of all tables, and conversion of Arrow columns to arrays."""
