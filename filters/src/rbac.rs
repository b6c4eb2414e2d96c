//! Who may do what: roles over tools, prompts, resources, methods and servers.
