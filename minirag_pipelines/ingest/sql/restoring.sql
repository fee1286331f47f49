-- name: expected
-- How many vectors Chroma must hold, and how many more it may hold because they are on their way in or out.
SELECT g.texts - count(i.text_hash) FILTER (WHERE i.state = 'leaving') AS there,
       count(i.text_hash) FILTER (WHERE i.state = 'leaving') AS leaving,
       count(i.text_hash) FILTER (WHERE i.state = 'sending') AS sending
  FROM generation g
  LEFT JOIN indexed i ON i.tenant_id = %(tenant_id)s AND i.generation = g.number AND i.state <> 'there'
 WHERE g.tenant_id = %(tenant_id)s AND g.number = %(generation)s
 GROUP BY g.texts;

-- name: in_doubt
SELECT text_hash
  FROM indexed
 WHERE tenant_id = %(tenant_id)s
   AND generation = %(generation)s
   AND state <> 'there'
   AND text_hash > %(after)s
 ORDER BY text_hash
 LIMIT %(most)s;

-- name: known_texts
SELECT text_hash
  FROM indexed
 WHERE tenant_id = %(tenant_id)s AND generation = %(generation)s AND text_hash = ANY(%(text_hashes)s)
 ORDER BY text_hash;

-- name: present_vectors
SELECT i.text_hash, e.vector, c.headings, c.text
  FROM indexed i
  JOIN embedding e ON e.tenant_id = %(tenant_id)s AND e.model = %(model)s AND e.text_hash = i.text_hash
 CROSS JOIN LATERAL (SELECT headings, text FROM chunk
                      WHERE tenant_id = %(tenant_id)s AND text_hash = i.text_hash AND chunker = %(chunker)s
                      ORDER BY version_id, ordinal
                      LIMIT 1) AS c
 WHERE i.tenant_id = %(tenant_id)s
   AND i.generation = %(generation)s
   AND i.state = 'there'
   AND i.text_hash > %(after)s
 ORDER BY i.text_hash
 LIMIT %(most)s;

-- name: waiting_texts
-- Texts that its model was offered again, or that were on their way here; `needed` says that a published document has it.
SELECT i.text_hash, e.vector, c.headings, c.text, c.text IS NOT NULL AS needed
  FROM indexed i
  LEFT JOIN embedding e ON e.tenant_id = %(tenant_id)s AND e.model = %(model)s AND e.text_hash = i.text_hash
  LEFT JOIN LATERAL (SELECT c.headings, c.text
                       FROM chunk c
                       JOIN published p ON p.tenant_id = %(tenant_id)s AND p.generation = %(generation)s
                                       AND p.version_id = c.version_id
                      WHERE c.tenant_id = %(tenant_id)s AND c.text_hash = i.text_hash AND c.chunker = %(chunker)s
                      LIMIT 1) AS c ON true
 WHERE i.tenant_id = %(tenant_id)s
   AND i.generation = %(generation)s
   AND i.state = 'sending'
   AND i.text_hash > %(after)s
 ORDER BY i.text_hash
 LIMIT %(most)s;

-- name: wait_no_more
-- No vector was ever made of them: they are nowhere.
DELETE FROM indexed
 WHERE tenant_id = %(tenant_id)s AND generation = %(generation)s AND state = 'sending'
   AND text_hash = ANY(%(text_hashes)s);
