-- Requests for 5,000 virtual hosts in turn, built once: what changes between requests is a pointer.
local requests, at = {}, 0

function init(args)
    local count = tonumber(args[1])
    for n = 0, count - 1 do
        -- A stride that is prime to the count: neighbours in time are no neighbours in a sorted table.
        local host = "h" .. (n * 1777 % count) .. ".bench.test"
        requests[n] = wrk.format("GET", "/", { Host = host })
    end
    requests.count = count
end

function request()
    at = at + 1
    if at == requests.count then at = 0 end
    return requests[at]
end
