"""Items of reporting guidelines as tables, one CSV file each. May import: nothing."""
