"""The command `foldserve`: one name for what the packages training, study, export and service do."""
