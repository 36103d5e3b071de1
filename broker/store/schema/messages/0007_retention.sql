-- Questions whose words are still there, the oldest first.
CREATE INDEX question_in_words ON question (at) WHERE answer <> '';
