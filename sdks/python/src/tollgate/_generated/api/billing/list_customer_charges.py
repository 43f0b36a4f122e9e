from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx

from ... import errors
from ...client import AuthenticatedClient, Client
from ...models.charge_page import ChargePage
from ...types import UNSET, Response, Unset


def _get_kwargs(
    customer: str,
    *,
    month: str | Unset = UNSET,
    cursor: str | Unset = UNSET,
) -> dict[str, Any]:

    params: dict[str, Any] = {}

    params["month"] = month

    params["cursor"] = cursor

    params = {k: v for k, v in params.items() if v is not UNSET and v is not None}

    _kwargs: dict[str, Any] = {
        "method": "get",
        "url": "/admin/customers/{customer}/charges".format(
            customer=quote(str(customer), safe=""),
        ),
        "params": params,
    }

    return _kwargs


def _parse_response(*, client: AuthenticatedClient | Client, response: httpx.Response) -> ChargePage | None:
    if response.status_code == 200:
        response_200 = ChargePage.from_dict(response.json())

        return response_200

    if client.raise_on_unexpected_status:
        raise errors.UnexpectedStatus(response.status_code, response.content)
    else:
        return None


def _build_response(*, client: AuthenticatedClient | Client, response: httpx.Response) -> Response[ChargePage]:
    return Response(
        status_code=HTTPStatus(response.status_code),
        content=response.content,
        headers=response.headers,
        parsed=_parse_response(client=client, response=response),
    )


def sync_detailed(
    customer: str,
    *,
    client: AuthenticatedClient,
    month: str | Unset = UNSET,
    cursor: str | Unset = UNSET,
) -> Response[ChargePage]:
    """Lists the charges of a customer's month, oldest first.

    Args:
        customer (str): Id of a customer: chosen at creation, or drawn as `cus_` and 20 letters
            and digits. It must not
            identify a person: it stays in usage and ledger when the customer is erased.
        month (str | Unset): UTC month.
        cursor (str | Unset): Opaque position in one list. It is valid for that list only.

    Raises:
        errors.UnexpectedStatus: If the server returns an undocumented status code and Client.raise_on_unexpected_status is True.
        httpx.TimeoutException: If the request takes longer than Client.timeout.

    Returns:
        Response[ChargePage]
    """

    kwargs = _get_kwargs(
        customer=customer,
        month=month,
        cursor=cursor,
    )

    response = client.get_httpx_client().request(
        **kwargs,
    )

    return _build_response(client=client, response=response)
