-- name: tenant_ids
SELECT tenant_id FROM tenant_ids() AS tenant_id ORDER BY tenant_id;

-- name: tenant
SELECT * FROM tenant WHERE tenant_id = %(tenant_id)s;

-- name: add_tenant
INSERT INTO tenant (tenant_id, name, embedding_model, chunk_tokens, chunk_overlap, portable)
VALUES (%(tenant_id)s, %(name)s, %(embedding_model)s, %(chunk_tokens)s, %(chunk_overlap)s, %(portable)s)
ON CONFLICT (tenant_id) DO NOTHING
RETURNING *;

-- name: change_tenant
UPDATE tenant
   SET name = coalesce(%(name)s, name),
       embedding_model = coalesce(%(embedding_model)s, embedding_model),
       chunk_tokens = coalesce(%(chunk_tokens)s, chunk_tokens),
       chunk_overlap = coalesce(%(chunk_overlap)s, chunk_overlap),
       portable = coalesce(%(portable)s, portable)
 WHERE tenant_id = %(tenant_id)s
RETURNING *;

-- name: sources
SELECT * FROM source WHERE tenant_id = %(tenant_id)s AND removed_at IS NULL ORDER BY name;

-- name: source
SELECT * FROM source WHERE tenant_id = %(tenant_id)s AND name = %(name)s AND removed_at IS NULL;

-- name: add_source
INSERT INTO source (tenant_id, name, kind, config)
VALUES (%(tenant_id)s, %(name)s, %(kind)s, %(config)s)
ON CONFLICT (tenant_id, name) WHERE removed_at IS NULL DO NOTHING
RETURNING *;

-- name: bots
SELECT * FROM bot WHERE tenant_id = %(tenant_id)s ORDER BY name;

-- name: bot
SELECT * FROM bot WHERE tenant_id = %(tenant_id)s AND name = %(name)s;

-- name: add_bot
INSERT INTO bot (tenant_id, name, model, prompt, top_k)
VALUES (%(tenant_id)s, %(name)s, %(model)s, %(prompt)s, %(top_k)s)
ON CONFLICT (tenant_id, name) DO NOTHING
RETURNING *;

-- name: tokens
SELECT * FROM token WHERE tenant_id = %(tenant_id)s ORDER BY created_at, token_id;

-- name: add_token
INSERT INTO token (tenant_id, name, token_hash, scopes, expires_at)
VALUES (%(tenant_id)s, %(name)s, %(token_hash)s, %(scopes)s, %(expires_at)s)
RETURNING *;

-- name: revoke_token
-- By id, or by name where only one token that is not revoked has it.
UPDATE token
   SET revoked_at = coalesce(revoked_at, now())
 WHERE tenant_id = %(tenant_id)s
   AND (token_id::text = %(token)s
        OR token_id = (SELECT (array_agg(t.token_id))[1] FROM token t
                        WHERE t.tenant_id = %(tenant_id)s AND t.name = %(token)s AND t.revoked_at IS NULL
                       HAVING count(*) = 1))
RETURNING *;

-- name: token_owner
-- Runs before a tenant is known: a function of the operator role answers it.
SELECT tenant_id, token_id, scopes FROM token_owner(%(token_hash)s);

-- name: overview
-- One row: what a status line says of a tenant. What is pending is few: it is looked up by itself, and so are failures.
SELECT t.tenant_id,
       t.name,
       g.number AS generation,
       coalesce(g.documents, 0) AS documents,
       coalesce(g.chunks, 0) AS chunks,
       (SELECT count(*)
          FROM (SELECT removed_at, forgotten_at FROM document
                 WHERE tenant_id = t.tenant_id AND pending IS NOT NULL
                OFFSET 0) AS d
         WHERE d.removed_at IS NULL AND d.forgotten_at IS NULL) AS pending,
       (SELECT count(*) FROM document_failure f WHERE f.tenant_id = t.tenant_id) AS quarantined,
       (SELECT count(*) FROM source s WHERE s.tenant_id = t.tenant_id AND s.removed_at IS NULL) AS sources,
       g.changed_at
  FROM tenant t
  LEFT JOIN generation g ON g.tenant_id = t.tenant_id AND g.state = 'live'
 WHERE t.tenant_id = %(tenant_id)s;
