"""What can be asked, and what is known of a request while it is answered."""
