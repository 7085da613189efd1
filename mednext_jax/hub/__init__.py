"""What `-m` takes: files, folders, archives and addresses, each opened as models; what is kept of them."""
