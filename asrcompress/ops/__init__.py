"""What each subcommand does. Operations return records and print nothing; cli/ prints."""
