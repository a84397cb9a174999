"""Problems of a config: the record of one problem, the rules that find problems, and the wording of messages."""
