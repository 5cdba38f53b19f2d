"""Pictures that clients send: taken out of a form, weighed, decoded where they can harm no other client."""
