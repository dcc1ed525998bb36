"""How people get into the admin: a password, whose guessing is limited, or OpenID Connect."""
